"""A page in the browser: what it takes (`limits`), what it does (`requests`), what it shows (`views`), its widgets (`app`).

Only `app` needs gradio.
"""
