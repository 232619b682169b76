"""Classify folders and lists of images to a result file, resumable, also on Ray."""
