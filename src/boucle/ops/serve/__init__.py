"""A service: one model bundle behind HTTP. Needs the bundle's folder and nothing else.

`python -m boucle.ops.serve BUNDLE --service churn --revision 2 --log DIR` runs it; `app.App` is the ASGI application.
"""
