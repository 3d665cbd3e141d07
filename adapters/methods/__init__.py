"""One file a method: a configuration that validates itself and compiles to edits."""
