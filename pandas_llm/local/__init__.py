"""The embedded model: an encoder in this process, behind the same Endpoint as any server."""
