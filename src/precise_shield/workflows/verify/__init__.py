"""Hold the neurons against matched random ones, causally."""
