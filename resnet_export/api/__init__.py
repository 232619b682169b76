"""The Python verbs behind `import resnet_export`: from arguments as Python has them to a typed result."""
