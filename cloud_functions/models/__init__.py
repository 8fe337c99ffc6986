"""Models by name: the message that describes one, and the aliases that operators move.

model_messages.py   the message that describes the model of a round, from rows or manifests
alias_actions.py    the actions `promote` and `rollback`

Rounds publish their models themselves (rounds/publish.py).
"""
