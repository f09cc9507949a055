"""HTTP interfaces to a workspace, as ASGI applications that a server mounts."""
