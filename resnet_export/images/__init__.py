"""Images on their way through a job: prepared batches with progress, and each image's class."""
