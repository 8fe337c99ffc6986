"""The dashboard: a page in the browser that shows stacks live, and acts on their runs, devices and models.

    fleet_views.py      what the page shows of a stack, as plain values
    page_actions.py     what an operator may do from the page
    page_figures.py     conclusions: whether a run learns, what holds it back, what it costs
    page_security.py    who may use the page: hosts, origins, token, headers
    page_server.py      the server: its address, its end, ``fedgrass dashboard``
    page_sources.py     what the page needs of a stack's data
    settings_form.py    the form of a run's settings, made from their types

``pages/`` has the page itself, made of NiceGUI's elements.
"""
