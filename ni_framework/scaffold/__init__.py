"""What `ni plugin new` writes: `components` are real components, one of each kind, `files` what stands around one."""
