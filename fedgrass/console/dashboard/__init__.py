"""The dashboard: a page in the browser that shows stacks live, and acts on their runs, devices and models.

    page_security.py    who may use the page: hosts, origins, token, headers
    page_server.py      the server of the page: its address, its end
    shown_stacks.py     ``fedgrass dashboard``: the stacks that its options name

``pages/`` has the page itself, made of NiceGUI's elements.
"""
