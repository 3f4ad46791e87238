"""A world of short stories whose latent attributes an exact parser recovers from the text.

It is the embedded default data: a broad annotated pretraining corpus, a narrow instruction set and held-out
prompts, in the file formats that a user's own corpus has. Semantic entropy on it needs no judge.
"""
