"""Programs around training: the doctor, the probe and the export of a model."""
