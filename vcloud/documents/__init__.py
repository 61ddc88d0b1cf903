"""The one reader of YAML documents: vApp files, image recipes, inventories.

A document passes four stages. `reader` turns its text into a plain tree that knows the line of
every value, and refuses what YAML readers disagree about (`scalars`). `parameters` fills in
`${...}` with what the user has `given` and with `secrets`. A pydantic model validates the tree (`model`), and `problems` says in plain words what
pydantic found. `field` holds the checks that all fields share.

All problems of a document are reported at once. A value that one stage refuses is replaced by a
mark, so that the next stage can judge the rest. This package knows none of the models: it must not
import `spec`, recipes or inventories.

To add a kind of document: write its pydantic model, whose fields raise `FieldError` with a sentence
and a hint, and call `read_model(data, file, Kind(...)).sound()`. A required field with
`examples=[...]` gets its example into the message.
"""
