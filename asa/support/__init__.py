"""Support: files, checkpoints, processes, parameters and the environment; nothing here knows about models or tools."""
