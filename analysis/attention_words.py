"""Which tokens of a prompt are a word: all occurrences, words of several tokens, nothing of begin, end and padding."""

from __future__ import annotations

import re
from typing import Any

from adapters.faults import InputFault

_WORD = r"\w+(?:['’-]\w+)*"


def words(prompt: str) -> list[str]:
    """List the distinct words of a prompt in their order; capitals are as in their first occurrence."""
    first: dict[str, str] = {}
    for word in re.findall(_WORD, prompt):
        first.setdefault(word.lower(), word)
    return list(first.values())


def token_positions(tokenizer: Any, prompt: str, word: str, length: int) -> list[tuple[int, ...]]:
    """Say at which places of the text the tokens of a word are.

    A word is found between word boundaries, so "cat" is not found in "category"; capitals do not matter. Several words
    in a row, such as "sks robot", are found too.

    Parameters
    ----------
    tokenizer
        The pipeline's; called as transformers' tokenizers are.
    length
        Places that the text has for the denoiser, padding included.

    Returns
    -------
    list of tuple of int
        The places of each occurrence, in the order of the prompt.

    Raises
    ------
    InputFault
        When the prompt does not have the word, the word lies beyond what the text encoder reads, or the tokenizer
        joins it with its neighbours.
    """
    found = list(re.finditer(rf"(?<!\w){re.escape(word.strip())}(?!\w)", prompt, re.IGNORECASE)) if word.strip() else []
    if not found:
        raise InputFault(f"the prompt {prompt!r} has no word {word!r}; it has {', '.join(words(prompt))}")
    content = _ids(tokenizer, prompt)
    read = caption_positions(tokenizer, prompt, length)
    places = []
    for match in found:
        before, until = _ids(tokenizer, prompt[: match.start()].rstrip()), _ids(tokenizer, prompt[: match.end()])
        if content[: len(before)] != before or content[: len(until)] != until or len(until) <= len(before):
            raise InputFault(
                f"the tokenizer joins {word!r} in {prompt!r} with the words beside it, so it has no tokens of its own; "
                "ask for the words together"
            )
        if len(until) > len(read):
            raise InputFault(
                f"{word!r} in {prompt!r} lies beyond the {len(read)} tokens that the text encoder reads; "
                "shorten the prompt"
            )
        places.append(tuple(read[len(before) : len(until)]))
    return places


def caption_positions(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """Say at which places of the text the prompt's own tokens are, as far as they are read.

    Begin, end and padding are left out.
    """
    content, full = _ids(tokenizer, prompt), list(tokenizer(prompt, truncation=False)["input_ids"])
    begin = next((at for at in range(len(full) + 1) if full[at : at + len(content)] == content), None)
    if begin is None:
        raise InputFault(
            f"the tokenizer {type(tokenizer).__name__} puts special tokens between the tokens of {prompt!r}, so words "
            "cannot be told; use a tokenizer that puts them before and after"
        )
    after = len(full) - begin - len(content)
    read = min(len(content), length - begin - after)
    if getattr(tokenizer, "padding_side", "right") == "left":
        begin += max(0, length - len(full))
    return list(range(begin, begin + read))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]) if text else []
