"""Decontaminate: training texts -> the same, marked where they hold what the evaluation asks.

A text is contaminated when it holds NGRAM_WORDS words in a row of an evaluation text, or all words of a shorter
one. Words are compared in Unicode NFKC and one case, without punctuation, white space and invisible characters.
Scripts that are written without spaces count each character as a word.
The documents themselves may be learned, and the questions that are asked about them quote them: of such a
question only the whole, word for word, contaminates a document's chunk (`whole`).
NOT covered: a question put in other words; letters of one script that look like those of another; evaluation
texts without a letter or digit, which match nothing.
"""

from collections.abc import Collection, Mapping

import polars as pl

NGRAM_WORDS = 13  # as GPT-3 was checked: Brown et al. 2020, https://arxiv.org/abs/2005.14165, appendix C
WITHOUT_SPACES = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
TITLE = "title"  # what stands for a template where a document's title is told of
MARKS = ("evaluation_set", "evaluation_text", "ngram")


def evaluation_rows(evaluation: Mapping[str, list[str]], whole: Collection[str] = ()) -> pl.DataFrame:
    """`set`, `text` and `whole` of texts by set; of the sets in `whole` only all of a text counts."""
    rows = [(name, text, name in whole) for name, texts in evaluation.items() for text in texts]
    return pl.DataFrame(rows, {"set": pl.String, "text": pl.String, "whole": pl.Boolean}, orient="row")


def mark_contaminated(texts: pl.DataFrame, evaluation: pl.DataFrame) -> pl.DataFrame:
    """`texts` with `evaluation_set`, `evaluation_text` and `ngram`, the words found; all null on the clean.

    `texts` has `id` and `text`; `evaluation` has `set`, `text` and `whole` (only all of it counts). Row order is
    kept. A text that holds several is told of the first; an n-gram of several is told as the first one's.
    """
    texts = texts.cast({"text": pl.String})  # a column without any value has no type of its own
    runs = _runs(evaluation)
    # One pass of an automaton over each text, however many runs there are (Aho and Corasick).
    found = normalized(pl.col("text")).str.extract_many(runs["ngram"].implode()).list.first()
    marked = texts.with_columns(found.alias("ngram")).join(runs, on="ngram", how="left", maintain_order="left")
    return marked.select(*texts.columns, *MARKS[:2], pl.col("ngram").str.strip_chars())


def normalized(text: pl.Expr) -> pl.Expr:
    """The words of a text in one case, with one space before, between and after them."""
    # Upper before lower case: the two together fold what lower case alone keeps apart (as in STRASSE).
    folded = text.str.normalize("NFKC").str.replace_all(r"\p{Default_Ignorable_Code_Point}", "")
    # Sigma at the end of a word has a small letter of its own, and what ends a word depends on who cuts it.
    folded = folded.str.to_uppercase().str.to_lowercase().str.replace_all("\u03c2", "\u03c3", literal=True)
    folded = folded.str.normalize("NFKC")
    words = folded.str.replace_all(WITHOUT_SPACES, " $1 ").str.replace_all(r"[^\p{Alphabetic}\p{M}\p{N}]+", " ")
    return pl.concat_str(pl.lit(" "), words.str.strip_chars(" "), pl.lit(" "))


def _runs(evaluation: pl.DataFrame) -> pl.DataFrame:
    """`ngram`, `evaluation_set`, `evaluation_text`: each run of words to look for once, in order."""
    plain = normalized(pl.col("text").cast(pl.String))
    texts = (
        evaluation.select(
            plain.alias("ngram"),
            plain.str.strip_chars().str.split(" ").alias("words"),
            pl.col("whole").cast(pl.Boolean),
            pl.col("set").cast(pl.String).alias("evaluation_set"),
            pl.col("text").cast(pl.String).alias("evaluation_text"),
        )
        .filter(pl.col("words").list.first() != "")
        .with_row_index("row")
    )
    entire = pl.col("whole") | (pl.col("words").list.len() <= NGRAM_WORDS)
    # A word a row, so that a long text is not held once for each of its words.
    words = texts.filter(~entire).select("row", "words").explode("words")
    following = [pl.col("words").shift(-place) for place in range(NGRAM_WORDS)]
    runs = words.select(
        "row",
        pl.concat_str(pl.lit(" "), pl.concat_str(following, separator=" "), pl.lit(" ")).alias("ngram"),
        (pl.col("row").shift(1 - NGRAM_WORDS) == pl.col("row")).alias("of_one_text"),
    ).filter("of_one_text")
    ngrams = pl.concat([texts.filter(entire).select("row", "ngram"), runs.select("row", "ngram")])
    return (
        ngrams.sort("row", maintain_order=True)
        .unique("ngram", keep="first", maintain_order=True)
        .join(texts.select("row", *MARKS[:2]), on="row", how="left", maintain_order="left")
        .drop("row")
    )
