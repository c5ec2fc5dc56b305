"""Ready-made architectures that a study can name; `aimer2.models.catalogue` lists them without loading a framework."""
