"""The command `adapter-study`: one small file a command."""
