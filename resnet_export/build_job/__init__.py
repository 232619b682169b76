"""`resnet-export build`: a bundle's file to an engine."""
