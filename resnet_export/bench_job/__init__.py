"""`resnet-export bench`: how fast, by stage, and what of it is noise."""
