"""What a user holds: a pipeline, how it samples, and what it samples as files."""
