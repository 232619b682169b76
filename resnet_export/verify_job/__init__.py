"""`resnet-export verify`: a bundle, a file or an engine against its reference."""
