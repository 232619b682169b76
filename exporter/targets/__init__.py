"""The deployment targets that come with the package, one module per maker of runtimes."""
