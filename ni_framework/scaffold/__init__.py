"""The templates of `ni plugin new`: `components` has one component of each kind, `files` the other files of a distribution."""
