"""Models behind an OpenAI-compatible server: asked patiently, with nothing secret left behind."""
