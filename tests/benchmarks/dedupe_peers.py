"""A deduplicator as a whole program: texts -> which have a near-duplicate. Runs where the peer is installed.

    python dedupe_peers.py NAME TEXTS.json RESULT.json [TEXTS.parquet]

Writes {"seconds": ..., "flags": [true, ...]}. The clock runs from a list of texts to the flags (text-dedup: from
its Parquet file to its own output), without imports. All use shingles of 3 words at Jaccard 0.8.
"""

import json
import os
import pickle
import re
import sys
import tempfile
import time
from pathlib import Path

THRESHOLD = 0.8
WORDS = re.compile(r"\w+")
TEXT_DEDUP = """
[input]
input_type = "local_files"
file_type = "parquet"
[input.read_arguments]
path = "parquet"
data_files = "{path}"
split = "train"
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = 120
bands = 20
rows = 6
threshold = {threshold}
ngram_size = 3
min_length = 1
check_false_positive = true
num_proc = 1
[output]
output_dir = "output"
save_clusters = true
skip_filtering = true
[debug]
enable_profiling = false
"""


def shingles(text):
    words = WORDS.findall(text.lower())
    return [" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))]


def datasketch(texts):
    """As its documentation has it: 128 permutations, the banding that it chooses itself."""
    from datasketch import MinHash, MinHashLSH

    began = time.perf_counter()
    rows = [[shingle.encode() for shingle in shingles(text)] for text in texts]
    sketches = MinHash.bulk(rows, num_perm=128)
    index = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    with index.insertion_session() as session:
        for key, sketch in enumerate(sketches):
            session.insert(key, sketch)
    flags = [len(index.query(sketch)) > 1 for sketch in sketches]
    return time.perf_counter() - began, flags


def rensa(texts):
    """Full-set R-MinHash: 120 values, 20 bands of 6, which finds 0.998 of the pairs at 0.8."""
    from rensa import RMinHash, RMinHashLSH

    began = time.perf_counter()
    matrix = RMinHash.digest_matrix_from_token_sets([shingles(text) for text in texts], 120, 1)
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=120, num_bands=20)
    flags = index.insert_matrix_and_query_duplicate_flags(matrix)
    return time.perf_counter() - began, list(map(bool, flags))


def rensa_rho(texts):
    """Its fastest way, which looks at a sample of the tokens: 128 values, 8 bands, as in its own benchmark."""
    from rensa import RMinHash, RMinHashLSH

    began = time.perf_counter()
    matrix = RMinHash.digest_matrix_from_token_sets_rho([shingles(text) for text in texts], 128, 1)
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=128, num_bands=8)
    flags = index.query_duplicate_flags_matrix_one_shot(matrix)
    return time.perf_counter() - began, list(map(bool, flags))


def text_dedup(path):
    """Its MinHash program, with its check of false positives."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where it looks for its settings
        Path("config.toml").write_text(TEXT_DEDUP.format(path=path, threshold=THRESHOLD))
        from text_dedup.config import Config
        from text_dedup.minhash import main

        began = time.perf_counter()
        main(Config())
        seconds = time.perf_counter() - began
        clusters = pickle.loads(Path("output/clusters.pickle").read_bytes())
        os.chdir("/")
    return seconds, clusters


def main():
    name, source, target = sys.argv[1:4]
    with open(source, encoding="utf-8") as file:
        texts = json.load(file)
    if name == "text_dedup":
        seconds, clusters = text_dedup(sys.argv[4])
        flags = [place in clusters for place in range(len(texts))]
    else:
        seconds, flags = {"datasketch": datasketch, "rensa": rensa, "rensa_rho": rensa_rho}[name](texts)
    with open(target, "w") as file:
        json.dump({"seconds": seconds, "flags": flags}, file)


if __name__ == "__main__":
    main()
