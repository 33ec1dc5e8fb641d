"""When things happen: the event loop's side of the coordinator.

``engine`` is the face that ``rpc`` talks to. It holds a desk for each tenant whose seat this
coordinator has, applies commands to them at once in memory, and holds every outward effect back
until the commit that makes it true. ``commits`` groups: whatever arrives while a transaction
commits goes together into the next one. ``sessions`` are the agents on the line, ``watch`` the
readers of run events, ``registry`` what is known of keys and workflows.

When a commit fails, memory is thrown away and read anew from the store: reload, never repair.
"""
