"""The page of the dashboard, made of NiceGUI's elements. A view is built once per visit, and then updated.

dashboard_page.py   the page: heading, navigation, and the push of changes
visit.py            what one browser looks at, and the parts of the page that views share
answers_view.py     the first screen: does it learn, what holds it back, what does it cost
run_view.py         one run: the open round with a cell per device, curves, rounds, who did what
devices_view.py     the devices, and one device with its last rounds
models_view.py      the models with their lineage and aliases
alarms_view.py      alarms and dead letters
dialogs.py          confirmations, the form of a new run, and the outcome of an action
elements.py         plain HTML elements, and the Vue components in this folder
page_actions.py     what an operator may do from the page
page_figures.py     conclusions: whether a run learns, what holds it back, what it costs
page_sources.py     what the page needs of a stack's data
settings_form.py    the form of a run's settings, made from their types
"""
