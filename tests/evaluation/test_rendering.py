"""Questions fit the model, keep what must stay, and lose nothing that fits."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexatm_jax.evaluation.prompts import FewShotPrompt, choose_shots
from alexatm_jax.evaluation.rendering import example_prompt, questions
from alexatm_jax.evaluation.tasks import FewShotTask

SUMMARY = FewShotPrompt(
    shot="Article: {doc} ==> Short summary: {sum} <br><br><br>",
    query="Article: {doc} ==> Short summary:",
    stop="<br><br><br>",
    cut_field="doc",
)


class Words:
    """Takes every word for a token; with `characters`, every character that is no space."""

    def __init__(self, max_prompt_tokens=10**6, max_answer_tokens=10**6, characters=False):
        self.max_prompt_tokens, self.max_answer_tokens = max_prompt_tokens, max_answer_tokens
        self.token = re.compile(r"\S" if characters else r"\S+")
        self.counted = 0

    def count_tokens(self, text):
        self.counted += len(text)
        return len(self.token.findall(text))

    count_answer_tokens = count_tokens


def article(name, doc, **more):
    entry = {"id": name, "language": "en", "shot_group": "en", "doc": doc, "sum": f"About {name}."}
    return entry | {"target": entry["sum"]} | more


def summaries(doc, shot_docs=(), prompt=SUMMARY, **more):
    shots = [article(f"shot {n}", text) for n, text in enumerate(shot_docs)]
    return FewShotTask("s", prompt, [article("item", doc, **more)], shots, modes=("generate",))


def ask(task, model, num_shots=0, mode="generate", **more):
    return questions(task, num_shots=num_shots, mode=mode, seed=0, model=model, **more)


def document(number):
    return " ".join(f"Sentence {n} of {number} words is here." for n in range(number))


def test_a_text_that_fits_is_left_alone():
    (question,) = ask(summaries(document(4), [document(3)]), Words(62), num_shots=1)
    assert question.prompt == (
        f"[CLM] Article: {document(3)} ==> Short summary: About shot 0. <br><br><br> "
        f"Article: {document(4)} ==> Short summary:"
    )
    assert (question.cut_tokens, question.too_long) == (0, None)
    assert question.shot_ids == ("shot 0",)


def test_a_text_is_cut_behind_a_sentence():
    (question,) = ask(summaries(document(9)), Words(40))
    kept = " ".join(document(9).split()[:35])
    assert question.prompt == f"[CLM] Article: {kept} ==> Short summary:"
    assert question.cut_tokens == 28


def test_the_field_has_a_limit_of_its_own_that_spares_the_shots():
    prompt = FewShotPrompt(SUMMARY.shot, SUMMARY.query, cut_field="doc", max_field_tokens=15)
    (question,) = ask(summaries(document(9), [document(9)], prompt), Words(), num_shots=1)
    assert document(9) in question.prompt
    assert question.prompt.endswith(
        "Article: " + " ".join(document(9).split()[:14]) + " ==> Short summary:"
    )
    assert question.cut_tokens == 63 - 14


def test_the_longest_texts_give_way_first():
    task = summaries(document(9), [document(2), document(9)])
    (question,) = ask(task, Words(91), num_shots=2)
    docs = re.findall(r"Article: (.*?) ==>", question.prompt)
    assert sorted(len(doc.split()) for doc in docs) == [14, 28, 28]
    assert question.cut_tokens == 2 * 35


@pytest.mark.parametrize(
    ("language", "doc", "characters", "kept"),
    [
        ("en", "A sentence that is far too long for it. More.", False, "A sentence that is"),
        ("en", "Donaudampfschifffahrtsgesellschaft fährt", True, "Dona"),
        ("ja", "これは長い文です。短い。", True, "これは長"),
        ("ja", "GPT は長い。", True, "GPT は"),
        ("ta", "நிலையானதொரு", True, "நிலை"),  # vowel signs stay with their letters
        (
            "sw",
            "Neno moja tu. Neno moja. Moja",
            False,
            "Neno moja tu.",
        ),  # no rules of its own: English ones
    ],
)
def test_a_text_without_a_sentence_that_fits_is_cut_behind_a_word_or_character(
    language, doc, characters, kept
):
    room = Words(characters=characters).count_tokens(SUMMARY.render(article("", ""), [])) + 4
    (question,) = ask(summaries(doc, language=language), Words(room, characters=characters))
    assert question.prompt == f"[CLM] Article: {kept} ==> Short summary:"


def test_what_cannot_be_cut_to_fit_is_said_to_be_too_long():
    (question,) = ask(summaries(document(2), [document(2)]), Words(12), num_shots=1)
    assert question.too_long == "the encoder would read 15 tokens, and 12 fit"
    assert question.prompt.count(document(2)) == 2 and question.cut_tokens == 0
    fixed = FewShotPrompt("", "Article: {doc} {sum}:")
    (question,) = ask(summaries(document(2), prompt=fixed), Words(15))
    assert question.too_long == "the encoder would read 18 tokens, and 15 fit"


def choices(prompt, **more):
    item = {"id": "i", "language": "en", "shot_group": "", "doc": document(4), "target": "no"}
    item |= {"choices": ["yes it is so", "no"], "answer": 1}
    return FewShotTask("c", prompt, [item | more], [])


def test_every_choice_is_a_request():
    prompt = FewShotPrompt("", "{doc} Is it so?", decoder="{choice};", given="It is so:")
    (question,) = ask(choices(prompt), Words(), mode="rank")
    text = f"[CLM] {document(4)} Is it so?"
    assert question.prompt == text
    assert question.requests == (
        (text, "It is so:", "yes it is so;"),
        (text, "It is so:", "no;"),
    )
    assert question.empty_requests == ()


def test_a_choice_may_stand_in_the_query_and_the_empty_context():
    prompt = FewShotPrompt(
        "", "{doc} So {choice}?", decoder="True", empty="So {choice}?", scoring="empty_context",
        cut_field="doc",
    )  # fmt: skip
    (question,) = ask(choices(prompt), Words(14), mode="rank")
    # Both choices get the same document, cut for the longer one.
    cut = " ".join(document(4).split()[:7])
    assert [prompt for prompt, _, _ in question.requests] == [
        f"[CLM] {cut} So yes it is so?",
        f"[CLM] {cut} So no?",
    ]
    assert question.prompt == question.requests[0][0]
    assert question.empty_requests == (
        ("[CLM] So yes it is so?", "", "True"),
        ("[CLM] So no?", "", "True"),
    )


def test_a_decoder_text_that_repeats_the_field_is_cut_with_it():
    denoising = FewShotPrompt("", "{doc} so", prefix="", given="{doc} so", cut_field="doc")
    (question,) = ask(choices(denoising), Words(100, 13), mode="rank")
    assert question.requests[0][1] == " ".join(document(4).split()[:7]) + " so"
    assert question.cut_tokens == 21


def test_a_choice_too_long_for_the_decoder_is_said_to_be_so():
    prompt = FewShotPrompt("", "{doc} so", given="It is so:", cut_field="doc")
    (question,) = ask(choices(prompt), Words(100, 6), mode="rank")
    assert question.too_long == (
        "the decoder would be given 3 tokens and scored on 4, and 6 fit together"
    )
    assert (question.cut_tokens, question.prompt) == (0, f"[CLM] {document(4)} so")


def beginning(text: str) -> str:
    """The first character with its marks, which a cut leaves."""
    text = text.lstrip()
    marks = (n for n in range(1, len(text)) if unicodedata.category(text[n])[0] != "M")
    return text[: next(marks, len(text))]


TEXTS = st.lists(st.sampled_from(["Wort", "a", "b.", "Yes.", "語。", "है।", " ", "\n"])).map(
    " ".join
)


@given(
    item=TEXTS,
    shots=st.lists(TEXTS, max_size=3),
    room=st.integers(1, 60),
    limit=st.none() | st.integers(1, 20),
    language=st.sampled_from(["en", "ja", "hi"]),
    characters=st.booleans(),
)
def test_a_question_fits_and_keeps_query_and_answers(
    item, shots, room, limit, language, characters
):
    prompt = FewShotPrompt(
        "D: {doc} A: {sum};", "D: {doc} Q: {title} A:", cut_field="doc", max_field_tokens=limit
    )
    task = summaries(item, shots, prompt, language=language, title="Ein Titel. Noch einer.")
    model = Words(room, characters=characters)
    (question,) = ask(task, model, num_shots=len(shots))
    drawn = choose_shots(task.items[0], task.shots, len(shots), seed=0)
    count, documents = model.count_tokens, [item, *(shot["doc"] for shot in drawn)]
    fewest = [max(1, count(beginning(text))) for text in documents]
    whole = prompt.render(task.items[0], drawn)
    if question.too_long:
        least = prompt.render(task.items[0] | {"doc": ""}, [s | {"doc": ""} for s in drawn])
        assert count(least) + sum(fewest) > room
        assert (question.prompt, question.cut_tokens) == (whole, 0)
        return
    assert count(question.prompt) <= room
    answers = [f" A: {shot['sum']};" for shot in drawn]
    pieces = re.split(
        "|".join(map(re.escape, [*answers, " Q: Ein Titel. Noch einer. A:"])), question.prompt
    )
    kept = [piece[piece.index("D:") + 3 :] for piece in pieces[:-1]]
    kept = [*kept[-1:], *kept[:-1]]
    assert len(kept) == len(documents) and pieces[-1] == ""
    assert all(text.startswith(part) for part, text in zip(kept, documents, strict=True))
    assert question.cut_tokens == sum(map(count, documents)) - sum(map(count, kept))
    if count(whole) <= room and (limit is None or count(item) <= limit):
        assert question.prompt == whole
    if limit is not None:
        assert count(kept[0]) <= max(limit, fewest[0])


def test_counting_a_long_document_costs_little_more_than_reading_it():
    model = Words(500)
    doc = document(1000)
    (question,) = ask(summaries(doc), model)
    assert 480 < model.count_tokens(question.prompt) <= 500
    assert model.counted < 12 * len(doc)


def grouped(sizes):
    items = [
        article(f"{group}-{n}", "x", group=f"g{group}")
        for group, size in enumerate(sizes)
        for n in range(size)
    ]
    return FewShotTask("g", SUMMARY, items, [], modes=("generate",))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(1, 20))
def test_groups_are_asked_whole(sizes, max_items):
    asked = ask(grouped(sizes), Words(), max_items=max_items)
    names = [question.item["id"] for question in asked]
    assert names == sorted(names)
    groups = {name.split("-")[0] for name in names}
    assert len(names) == sum(sizes[int(group)] for group in groups)
    assert len(names) <= max_items or len(groups) == 1
    if sum(sizes) <= max_items:
        assert len(names) == sum(sizes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "guess"}, "the mode is 'guess'; choose generate or rank"),
        ({"mode": "rank"}, "none of the items asked about has choices"),
        ({"num_shots": 2}, "needs 2 shots of group 'en'; the pool has 1 besides"),
        ({"num_shots": -1}, "must be 0 or more"),
        ({"max_items": 0}, "max_items is 0; give 1 or more"),
    ],
)
def test_contradictory_requests_are_refused_also_without_a_model(changes, message):
    task = summaries("x", ["y"])
    for function, more in ((questions, {"model": Words()}), (example_prompt, {})):
        asked = {"num_shots": 0, "mode": "generate", "seed": 0} | more | changes
        with pytest.raises(ValueError, match=f"task 's': .*{message}"):
            function(task, **asked)


def test_shots_without_a_template_and_choices_without_a_token_are_refused():
    with pytest.raises(ValueError, match="1 shots for a prompt without shot template"):
        example_prompt(
            summaries("x", ["y"], FewShotPrompt("", "{doc}")),
            num_shots=1, mode="generate", seed=0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="item 'i' has the choice ' ', which is no token"):
        ask(choices(FewShotPrompt("", "{doc}"), choices=[" ", "no"]), Words(), mode="rank")
