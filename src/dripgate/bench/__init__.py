"""The benchmark: one protocol, fair baselines, hard streams, rows that anyone can make again.

plan        how much of each data set, which net, how many steps; which rows make the table
conditions  what is done to the stream: broken frames, label noise, a long tail, drift, …
nets        the two nets of the benchmark that users have no other use for
observe     the deployed model, and all that it says about a stream
rules       who decides what is kept: ours, label-free baselines, references that need labels
hold        one way to keep a share of a stream by a score
diverse     the baselines that look at embeddings
protocol    one job: first model, stream, decisions, retraining, accuracy; rows as they finish
rows        a row, and the file of rows
tables      means, intervals and paired differences, as Markdown
plots       the same as pictures
"""
