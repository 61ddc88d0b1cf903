"""The one reader of YAML documents: vApp files, image recipes, inventories.

`document` turns text into a plain tree that knows the line of every value, and refuses what YAML readers disagree about. `parameters` fills
in `${...}`. `field` says what is wrong with a value, and `problems` puts what pydantic finds into the words of the file.

All problems of a document are reported at once. What one stage refuses is taken out of the tree, so that the next stage can judge the rest.
"""
