#!/bin/sh
# An uncased BERT's tokenizer merges words of Japanese, Hindi and Thai that differ, and spells Korean in more letters.
#
# Versions: tokenizers 0.21.4, Python 3.11, Linux; no network but PyPI.
# Guess: `BertNormalizer(lowercase=True, strip_accents=True)`, the text side of every uncased BERT (multilingual ones,
#   too), takes case and accents from letters, so that a word of a script without case and accents stays as it is.
# Behaviour: it decomposes text and drops every nonspacing mark, whatever the script. Japanese voiced kana become
#   unvoiced: "gaki" (brat) and "kaki" (persimmon) are one word, and so are "pan" (bread) and "han" (half). Hindi loses
#   some vowel signs and keeps others, so that "kul" (family) and "kal" (yesterday) are one word; Thai loses vowels and
#   tones, so that "horse" and "come" are one word. A Korean syllable becomes two or
#   three letters that stay apart. `strip_accents=False` beside `lowercase=True` keeps all of this.
# Seen: "merged: ja ja hi th", "Korean: 2 syllables, 6 letters", "kept apart without strip_accents".
# Exits with 0 while tokenizers behaves so, with 1 once it does not. Takes 2 s and a download of 3 MB.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m venv venv
venv/bin/pip install --quiet tokenizers==0.21.4

venv/bin/python - <<'PYTHON'
from tokenizers.normalizers import BertNormalizer

PAIRS = {
    "ja, brat and persimmon": ("がき", "かき"),
    "ja, bread and half": ("パン", "ハン"),
    "hi, family and yesterday": ("कुल", "कल"),
    "th, horse and come": ("ม้า", "มา"),
}
uncased = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True)
keeping = BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
merged = [name for name, words in PAIRS.items() if len({uncased.normalize_str(word) for word in words}) == 1]
apart = all(len({keeping.normalize_str(word) for word in words}) == 2 for words in PAIRS.values())
korean = uncased.normalize_str("한강")
print("merged:", *(name[:2] for name in merged))
print(f"Korean: 2 syllables, {len(korean)} letters")
print("kept apart without strip_accents" if apart else "merged without strip_accents, too")
raise SystemExit(0 if len(merged) == len(PAIRS) and len(korean) == 6 and apart else 1)
PYTHON
