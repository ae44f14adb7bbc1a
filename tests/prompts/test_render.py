"""Templates: strict, sandboxed, and every mistake in one is an error that names it."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.filter import Chunk, FilterSettings, check, parse_pairs
from active_reading.augment.judge import ASKED
from active_reading.augment.plan import parse_strategies
from active_reading.prompts.render import FOLDER, JUDGING, Template, available_templates, load_template

VALUES = {
    "text": "Zora sold 12 kites.",
    "title": "Kites",
    "heading": "Sales",
    "strategy": "List every kite by year",
    "num_items": 3,
    "task": "sell kites",
}
HASHES = ["6277ccaa65c009fb", "b540f29e710a7b86", "d8db51401f835b72", "f88167e7e7d7b99e"]
JUDGING_HASHES = {"grade": "66dd320d38e44b27", "question": "361913d353e8ad95", "statement": "77b2b204fce7d653"}
MINIMAL = "---\nversion: 1\nanswer: text\n---\n"


def write_template(folder: Path, source: str, name: str = "mine.j2") -> str:
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return str(path)


def template_of(body: str) -> Template:
    return Template(name="mine", path="mine.j2", version=1, answer="text", source=body, body=body)


def test_the_shipped_templates_are_the_files_of_the_folder():
    assert {"apply_strategy", "paraphrase", "propose_strategies", "questions"} < set(available_templates())
    assert {path.stem for path in FOLDER.iterdir()} == set(available_templates())


@pytest.mark.parametrize("name", available_templates())
def test_every_shipped_template_renders_as_turns_that_end_with_the_request(name):
    template = load_template(name)
    turns = template.messages(**VALUES)
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * len(template.examples) + ["user"]
    assert len(template.examples) >= 1
    assert VALUES["text"] in turns[-1]["content"]
    assert all(str(VALUES[variable]) in turns[-1]["content"] for variable in template.variables)
    assert not any("{{" in turn["content"] or "}}" in turn["content"] for turn in turns)


@pytest.mark.parametrize("name", available_templates())
def test_every_shipped_template_puts_all_that_it_says_before_the_text(name):
    """Two chunks share everything before the text itself, so the engine's prefix cache can serve it."""
    first, second = (
        load_template(name).messages(**{**VALUES, "text": text}) for text in ("One kite.", "Two kites.")
    )
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]
    instruction, _, end = first[-1]["content"].partition("Text:\nOne kite.")
    assert second[-1]["content"].startswith(instruction)
    assert end.strip() in ("", f"Study strategy: {VALUES['strategy']}", VALUES["strategy"])


@pytest.mark.parametrize("name", available_templates())
def test_the_example_answers_have_the_form_and_the_faithfulness_that_the_filter_asks_for(name):
    template = load_template(name)
    for example in template.examples:
        row = {"text": example["answer"], "error": "", "finish_reason": "stop"}
        if template.answer == "strategies":
            assert len(parse_strategies(example["answer"])) == example["num_items"]
            continue
        if template.answer == "questions":
            assert len(parse_pairs(example["answer"])) == example["num_items"]
        verdicts = check(row, template.answer, Chunk(example["text"], ""), FilterSettings())
        assert [reason for _, reason, _ in verdicts] == [None] * len(verdicts)


@pytest.mark.parametrize("name", available_templates())
def test_a_missing_variable_is_an_error_that_names_the_file_and_the_variable(name):
    template = load_template(name)
    for missing in template.variables:
        values = {key: value for key, value in VALUES.items() if key != missing}
        with pytest.raises(ValueError, match=rf"{name}\.j2:\d+: does not render: '{missing}' is undefined"):
            template.messages(**values)


def test_a_missing_variable_in_a_condition_is_an_error_too():
    with pytest.raises(ValueError, match="'title' is undefined"):
        template_of("{% if title %}{{ title }}{% endif %}{{ text }}").messages(text="Zora.")


@pytest.mark.parametrize(
    "body",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ text.__class__.__init__.__globals__ }}",
        "{{ text['__class__'] }}",
        "{{ text|attr('__class__') }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ messages.__globals__ }}",
        "{{ range(100001)|list }}",
        "{% include '/etc/hostname' %}",
        "{% import 'os' as os %}{{ os }}",
        "{{ num_items / 0 }}",
        "{{ num_items + text }}",
        "{% if text %}{{ text|no_such_filter }}{% endif %}",
    ],
)
def test_a_template_that_reaches_out_or_breaks_is_refused_with_its_file(body):
    with pytest.raises(ValueError, match=r"mine\.j2:1: does not render: .+"):
        template_of(body).messages(text="Zora sold 12 kites.", num_items=3)


def test_a_template_cannot_change_the_values_it_is_given():
    tags = ["kite"]
    with pytest.raises(ValueError, match="does not render"):
        template_of("{{ text.append('owl') }}").messages(text=tags)
    assert tags == ["kite"]


def test_an_unknown_template_lists_the_available_ones():
    with pytest.raises(ValueError, match="unknown template 'paraphrse'") as caught:
        load_template("paraphrse")
    assert all(name in str(caught.value) for name in available_templates())


@pytest.mark.parametrize("name", ["", "../render"])
def test_a_template_that_is_not_a_file_is_unknown(name):
    with pytest.raises(ValueError, match=f"unknown template '{re.escape(name)}'"):
        load_template(name)


def test_a_folder_is_not_a_template(tmp_path):
    (tmp_path / "folder.j2").mkdir()
    with pytest.raises(ValueError, match="folder.j2 does not exist"):
        load_template(str(tmp_path / "folder.j2"))


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="template file missing.j2 does not exist"):
        load_template("missing.j2")


def test_a_template_that_never_uses_the_text_is_refused(tmp_path):
    path = tmp_path / "idle.j2"
    path.write_text("---\nversion: 1\nanswer: text\n---\nTell me something.\n", encoding="utf-8")
    with pytest.raises(ValueError, match="never uses 'text'"):
        load_template(str(path))


def test_a_template_that_cannot_render_is_refused_when_it_is_loaded(tmp_path):
    path = tmp_path / "broken.j2"
    path.write_text("---\nversion: 1\nanswer: text\n---\n{{ text.foo.bar }}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.j2:5: does not render"):
        load_template(str(path))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ text }}\n", "begins with front matter between two '---' lines"),
        ("---\nversion: 1\nanswer: text\n{{ text }}\n", "begins with front matter"),
        ("Hello\n---\nversion: 1\nanswer: text\n---\n{{ text }}\n", "begins with front matter"),
        ("---\nversion: [1\n---\n{{ text }}\n", "front matter is not valid YAML"),
        ("---\nversion: 2024-13-01\n---\n{{ text }}\n", "front matter is not valid YAML: month must be in 1..12"),
        ("---\njust words\n---\n{{ text }}\n", "front matter must be fields"),
        ("---\n---\n{{ text }}\n", "front matter must be fields"),
        (
            "---\nversion: 1\nanswer: text\nmodel: big\n---\n{{ text }}\n",
            "unknown field 'model'.*answer, examples, schema, version",
        ),
        ("---\nanswer: text\n---\n{{ text }}\n", "needs 'version'"),
        ("---\nversion: one\nanswer: text\n---\n{{ text }}\n", "needs 'version'"),
        ("---\nversion: 1\n---\n{{ text }}\n", "'answer' .one of text, questions, strategies"),
        ("---\nversion: 1\nanswer: poem\n---\n{{ text }}\n", "'answer' .one of text, questions, strategies"),
        ("---\nversion: 1\nanswer: [text]\n---\n{{ text }}\n", "'answer' .one of text, questions, strategies"),
        ("---\nversion: 1\nanswer: text\nexamples: 5\n---\n{{ text }}\n", "'examples' must be a list"),
        ("---\nversion: 1\nanswer: text\nexamples: {text: a}\n---\n{{ text }}\n", "'examples' must be a list"),
        ("---\nversion: 1\nanswer: text\nexamples: [kite]\n---\n{{ text }}\n", "every example needs an 'answer'"),
        (
            "---\nversion: 1\nanswer: text\nexamples: [{text: a}]\n---\n{{ text }}\n",
            "every example needs an 'answer'",
        ),
        (
            MINIMAL + "{{ txt }}\n",
            "undefined variable 'txt' .available: heading, num_items, strategy, task, text, title",
        ),
        (MINIMAL + "{% for kite in kites %}{{ kite }}{% endfor %}\n", "undefined variable 'kites'"),
    ],
)
def test_a_mistake_in_a_template_file_names_the_file(tmp_path, source, complaint):
    path = write_template(tmp_path, source)
    with pytest.raises(ValueError, match=complaint) as caught:
        load_template(path)
    assert str(caught.value).startswith(f"{path}:")


def test_an_example_without_a_variable_of_the_template_is_refused(tmp_path):
    example = "examples:\n  - text: Zora.\n    answer: Zora\n"
    source = f"---\nversion: 1\nanswer: text\n{example}---\n{{{{ title }}}} {{{{ text }}}}\n"
    with pytest.raises(ValueError, match=r"mine\.j2:8: does not render: 'title' is undefined"):
        load_template(write_template(tmp_path, source))


def test_a_template_that_is_not_utf8_names_the_file_and_the_cure(tmp_path):
    path = tmp_path / "latin.j2"
    path.write_bytes(MINIMAL.encode() + "caf\u00e9 {{ text }}".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.j2: not UTF-8 text \(byte 35\): save it as UTF-8"):
        load_template(str(path))


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("{{ text }\n", 5),
        ("Text:\n{{ text }}\n\n{% if text %}\n", 8),
        ("{% endfor %}", 5),
        ("Text:\n{{ text|no_such_filter }}\n", 6),
    ],
)
def test_a_syntax_error_names_the_line_of_the_file(tmp_path, body, line):
    path = write_template(tmp_path, MINIMAL + body)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: ")):
        load_template(path)


def test_a_syntax_error_names_the_line_of_the_body_even_when_an_example_quotes_it(tmp_path):
    source = "---\nversion: 1\nanswer: text\nexamples:\n  - text: '{% endfor %}'\n    answer: a\n---\n{% endfor %}"
    path = write_template(tmp_path, source)
    with pytest.raises(ValueError, match=re.escape(f"{path}:8: ")):
        load_template(path)


def test_dashes_inside_an_example_do_not_end_the_front_matter(tmp_path):
    source = (
        "---\nversion: 1\nanswer: text\nexamples:\n  - text: |-\n      Zora ---\n      ---\n      sold\n"
        "    answer: kites\n---\n{{ text }}\n---\nthe end\n"
    )
    first, second, last = load_template(write_template(tmp_path, source)).messages(text="New")
    assert first["content"] == "Zora ---\n---\nsold\n---\nthe end"
    assert second["content"] == "kites"
    assert last["content"] == "New\n---\nthe end"


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_the_same_template(tmp_path):
    source = MINIMAL + "Text:\n{{ text }}\n"
    plain = load_template(write_template(tmp_path, source))
    (tmp_path / "windows.j2").write_bytes(b"\xef\xbb\xbf" + source.replace("\n", "\r\n").encode())
    windows = load_template(str(tmp_path / "windows.j2"))
    assert windows.hash == plain.hash
    assert windows.messages(text="Zora.") == plain.messages(text="Zora.")


def test_the_name_and_fields_come_from_the_file(tmp_path):
    template = load_template(
        write_template(tmp_path, "---\nversion: 7\nanswer: questions\n---\n{{ text }}\n", "ask.j2")
    )
    assert (template.name, template.version, template.answer, template.examples) == ("ask", 7, "questions", ())
    assert template.variables == {"text"}
    assert not template.needs_strategy
    assert load_template("apply_strategy").needs_strategy


EDITS = {
    "a word of the body": ("Rewrite", "Retell"),
    "a space at the end of a line": ("Rewrite this.", "Rewrite this. "),
    "the version": ("version: 1", "version: 2"),
    "the kind of answer": ("answer: text", "answer: questions"),
    "an example": ("Zora sold", "Zora bought"),
    "a comment": ("version: 1", "version: 1  # first"),
    "the last line end": ("{{ text }}\n", "{{ text }}"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_hash_changes_with_any_edit(tmp_path, edit):
    example = "examples:\n  - {text: Zora sold, answer: kites}\n"
    source = f"---\nversion: 1\nanswer: text\n{example}---\nRewrite this.\n{{{{ text }}}}\n"
    old, new = EDITS[edit]
    assert source.count(old) == 1
    before = load_template(write_template(tmp_path, source))
    after = load_template(write_template(tmp_path, source.replace(old, new)))
    assert after.hash != before.hash


def test_the_hash_does_not_depend_on_the_file_name_or_place(tmp_path):
    (tmp_path / "deeper").mkdir()
    source = MINIMAL + "{{ text }}\n"
    first = load_template(write_template(tmp_path, source, "one.j2"))
    second = load_template(write_template(tmp_path / "deeper", source, "two.j2"))
    assert first.hash == second.hash
    assert first.name != second.name


@settings(deadline=None)
@given(text=st.text())
def test_the_text_stands_in_the_prompt_as_it_is(text):
    """No character of a document is read as a template, escaped or lost."""
    content = template_of("Text:\n{{ text }}\n\nEnd").messages(text=text)[0]["content"]
    assert content == f"Text:\n{text}\n\nEnd"


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% raw %}", "{# note #}", "{{ ''.__class__ }}", "<b>&amp;</b>"])
def test_braces_and_markup_in_the_text_are_left_alone(text):
    for name in available_templates():
        assert text in load_template(name).messages(**{**VALUES, "text": text})[-1]["content"]


def test_the_templates_of_finished_work_keep_their_hashes():
    """Answers in ledgers are addressed by them: an edit would ask all of it again."""
    names = ("apply_strategy", "paraphrase", "propose_strategies", "questions")
    assert [load_template(name).hash for name in names] == HASHES
    judging = [load_template(str(path), variables=ASKED) for path in sorted(JUDGING.glob("*.j2"))]
    assert {template.name: template.hash for template in judging} == JUDGING_HASHES


def test_a_users_folder_goes_before_the_shipped_templates(tmp_path):
    write_template(tmp_path, MINIMAL + "Own: {{ text }}", "paraphrase.j2")
    write_template(tmp_path, MINIMAL + "New: {{ text }}", "new.j2")
    assert load_template("paraphrase", str(tmp_path)).body.startswith("Own")
    assert load_template("new", str(tmp_path)).body.startswith("New")
    assert load_template("new.j2", str(tmp_path)).body.startswith("New")
    assert load_template("questions", str(tmp_path)) == load_template("questions")
    with pytest.raises(ValueError, match="unknown template 'other': use one of .*, new, "):
        load_template("other", str(tmp_path))
    with pytest.raises(ValueError, match="template folder .*nowhere does not exist"):
        load_template("questions", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("source", "line", "message"),
    [
        (MINIMAL + "{{ text }}\n{{ txet }}", 6, "undefined variable 'txet'"),
        ("---\nversion: 1\nanswer: text\nstyle: dry\n---\n{{ text }}", 4, "unknown field 'style'"),
        (
            "---\nversion: 1\nanswer: text\nexamples:\n  - text: A\n    title: B\n    answer: A\n---\n{{text}}",
            6,
            "an example gives 'title', which the template never uses",
        ),
        (
            "---\nversion: 1\nanswer: text\nschema:\n  const: 2024-01-01\n---\n{{ text }}",
            4,
            "'schema' is not JSON: Object of type date is not JSON serializable (a date is text between quotes)",
        ),
        ("---\nversion: 1\nanswer: text\nschema: {minimum: .nan}\n---\n{{ text }}", 4, "'schema' is not JSON"),
    ],
)
def test_a_mistake_in_a_template_is_named_with_its_line(tmp_path, source, line, message):
    path = write_template(tmp_path, source)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: {message}")):
        load_template(path)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("A\n{{ text.split()[9] }}", 6),
        ("{{ text }}\n\n{{ text|truncate('x') }}", 7),
        ("{{ text }}\n{% for part in range(2) %}\n\n{{ num_items / part }}{% endfor %}", 8),
        ("{% macro of(x) %}\n{{ x.foo.bar }}{% endmacro %}\n{{ of(text) }}", 6),
        ("{{ text }}\n{% if title %}\n{{ title|no_such_filter }}{% endif %}", 7),
    ],
    ids=["undefined", "argument of a filter", "loop", "inside a macro", "filter in a condition"],
)
def test_a_mistake_that_shows_when_a_template_is_filled_is_named_with_its_line(tmp_path, body, line):
    path = write_template(tmp_path, MINIMAL + body)
    with pytest.raises(ValueError, match=re.escape(f"{path}:{line}: does not render: ")):
        load_template(path)


def test_a_mistake_that_only_some_texts_bring_out_is_named_with_its_line_too(tmp_path):
    path = write_template(
        tmp_path, MINIMAL + "{{ text }}\n{% if text|length > 20 %}\n{{ text.foo.bar }}{% endif %}"
    )
    template = load_template(path)
    with pytest.raises(ValueError, match=re.escape(f"{path}:7: does not render: 'str object' has no attribute")):
        template.messages(text="Zora sold 12 kites in 1912.")


def test_a_date_between_quotes_is_text_of_the_schema_and_one_in_an_example_is_text_of_the_prompt(tmp_path):
    fields = "schema: {const: '2024-01-01'}\nexamples:\n  - {text: 2024-01-01, answer: 2024-01-02}\n"
    source = f"---\nversion: 1\nanswer: text\n{fields}---\n{{{{ text }}}}"
    template = load_template(write_template(tmp_path, source))
    assert template.schema == {"const": "2024-01-01"}
    assert [turn["content"] for turn in template.messages(text="New")] == ["2024-01-01", "2024-01-02", "New"]
