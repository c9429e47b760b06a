"""What a plugin's import and calls do beside their result: prints, files, random generators."""
