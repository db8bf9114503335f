"""The sections of a configuration, one file a stage."""
