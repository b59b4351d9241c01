"""Search: pictures for a sentence, sentences and pictures for a picture, by a run or in an index.

    python tools/search_retrieval.py --cfg_file out/mine --text "a dog"         (_search_model.py)
    python tools/search_retrieval.py --index out/photos.index --text "a dog"    (_search_index.py)

This script imports nothing before it knows that no other process answers: starting Python, and compiling a
script, are most of what a search takes that is handed over.
"""

import sys

if __name__ == "__main__":
    if any(word.partition("=")[0] == "--index" for word in sys.argv[1:]):
        import _warm_search

        _warm_search.main()
    else:
        import _init_paths  # noqa: F401
        import _search_model
        from _command import run

        run(_search_model.main)
