"""A page in the browser: its `limits`, its `requests` (`rules`, `growth`), its `views` and its widgets (`app`).

Only `app` needs gradio.
"""
