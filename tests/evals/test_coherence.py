import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.errors import DataError
from ledmerge.evals.coherence import ENDINGS, LONG, is_coherent, judge, read

PROSE = (
    "Black holes are regions of space where gravity is so strong that nothing, not even light, can "
    "escape. They form when a massive star runs out of fuel and collapses under its own weight. "
    "What is left is small and dense, and bends the paths of everything that comes near it."
)
CODE = """def merge(left, right):
    result = []
    while left and right:
        source = left if left[0] <= right[0] else right
        result.append(source.pop(0))
    return result + left + right


for i in range(10):
    for j in range(10):
        print(i, j, end=" ")
"""

COHERENT = {
    "number": "42",
    "word": "Yes",
    "letter": "B",
    "negative": "-5",
    "sum": "1 + 1 = 2",
    "formula": r"$$\frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$",
    "list of numbers": "[[1, 2], [3, 4]]",
    "line of code": "a[i] += b[j];",
    "json": '{"a": [], "b": {}, "c": null}',
    "table": "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
    "prose": PROSE,
    "code": CODE,
    "laughter": "Ha ha ha ha!",
    "refrain": "Row, row, row your boat, gently down the stream. "
    "Merrily, merrily, merrily, merrily, life is but a dream.",
    "items": "- ant\n- bee\n- cat\n- dog\n- eel\n- fox\n- gnu\n- hen\n- ibis\n- jay",
    "recipe": "\n".join(
        f"{i}. Add {n} to the bowl and stir well."
        for i, n in enumerate(["flour", "sugar", "two eggs", "the butter", "salt", "milk"], 1)
    ),
    "said thrice": (PROSE + "\n") * 3,
    "a large number": "A googol is 1" + "0" * 100 + ", a one and a hundred zeros, which is a lot.",
    "Chinese": "黑洞是时空中引力极强的区域，任何东西甚至光都无法逃脱。"
    "它们在大质量恒星耗尽燃料后坍缩时形成。",
    "Chinese, short": "四十二。",
    "Japanese": "ブラックホールとは、重力がきわめて強く、光さえも逃げ出せない天体のことである。",
    "Korean": "블랙홀은 중력이 매우 강해서 빛조차 빠져나올 수 없는 시공간의 영역이다.",
    "Hindi": "कृष्ण विवर अंतरिक्ष का वह क्षेत्र है जहाँ गुरुत्वाकर्षण इतना प्रबल होता है "
    "कि प्रकाश भी बाहर नहीं आ सकता।",
    "Thai": "หลุมดำคือบริเวณในอวกาศที่แรงโน้มถ่วงสูงมากจนแม้แต่แสงก็หนีออกมาไม่ได้",
    "Burmese": "တွင်းနက်ဆိုသည်မှာ အလင်းပင် မလွတ်နိုင်သော နေရာဖြစ်သည်။",
    "Arabic": "الثقب الأسود منطقة في الفضاء جاذبيتها قوية جدا "
    "بحيث لا يستطيع حتى الضوء الإفلات منها.",
    "Russian": "Чёрная дыра — область пространства, притяжение которой так велико, "
    "что её не покидает свет.",
}

INCOHERENT = {
    "nothing": "",
    "spaces": " \n\t ",
    "newlines": "\n" * 400,
    "symbols": "?!?!",
    "more symbols": "!@#$ %^&* ()_+ {}|: <>?[ ];',./" * 3,
    "brackets": "});\n});\n});\n}",
    "broken bytes": "\ufffd\ufffd\ufffd",
    "the": "the the the the the the the the the the",
    "ones": "1111111" * 10,
    "abc": "abc " * 100,
    "end of text": "<|endoftext|>" * 20,
    "sentence": "I am sorry, I cannot help with that. " * 5,
    "paragraph": PROSE * 5,
    "noise": "".join(f"Step {i}: do the thing. " for i in range(60)),
    "more noise": "".join(
        f"{i}. I'm sorry, but I can't do that, {n}.\n" for i in range(9) for n in "ab"
    ),
    "two words": "foo bar bar foo foo foo bar foo bar bar bar foo " * 6,
    "a good start": PROSE + " And so on" + " and on" * 60,
    "Chinese": "好的" * 40,
    "Thai": "ครับ" * 20,
    "Hindi": "नमस्ते " * 20,
}


@pytest.mark.parametrize("name", COHERENT)
def test_language_is_coherent(name):
    assert is_coherent(COHERENT[name])
    assert is_coherent(f"\n {COHERENT[name]}\n\n")


@pytest.mark.parametrize("name", INCOHERENT)
def test_loops_and_symbols_are_not(name):
    assert not is_coherent(INCOHERENT[name])
    assert not is_coherent(f"\n {INCOHERENT[name]}\n\n")


def test_a_loop_is_found_behind_a_start_of_any_length():
    for length in (0, *ENDINGS, 2 * ENDINGS[-1]):
        start = "".join(f"{i * i * i:x} " for i in range(length))[:length]
        assert is_coherent(start + " the end")
        assert not is_coherent(start + " over and over" * 20)


@given(st.integers(30, 90))
def test_four_rounds_are_a_loop(period):
    """Of 251 pieces of 6 among 256 characters, a quarter must differ: that is 63."""
    circle = "".join(chr(ord("一") + place) for place in range(period))
    assert is_coherent((circle * 9)[: ENDINGS[0]]) == (period >= 63)


def test_every_length_is_judged():
    for length in range(1, LONG + 9):
        assert is_coherent(PROSE[:length])
        assert is_coherent("a" * length) == (length < LONG)


def test_the_figure():
    question = read({"prompt": "Hi"}, "a.jsonl: row 1")
    assert question.prompt == "Hi"
    assert judge(question, "Hello!") == {"coherent": True}
    assert judge(question, "...") == {"coherent": False}
    with pytest.raises(DataError, match=r"row 1: no field 'prompt'"):
        read({"promt": "Hi"}, "row 1")
