"""Pictures of a detector, one module for each `what=`; those of a classifier's pictures are made for boxes here."""
