"""Near-duplicates: what counts as a word in any script, and which requests are linked."""

import re
from pathlib import Path

import pytest

from asa.data.duplicates import NEAR_DUPLICATE, near_duplicate_groups, text_words
from asa.data.requests import load_requests

DATA = Path(__file__).parents[2] / "data"


def test_near_duplicates_are_linked_in_chains():
    base = [f"w{i}" for i in range(10)]
    first, second, third = (" ".join(words) for words in (base, [*base[1:], "x"], [*base[2:], "x", "y"]))
    assert near_duplicate_groups([first, third]) == [[0], [1]]
    assert near_duplicate_groups([first, "other", third, second]) == [[0, 2, 3], [1]]


def test_the_threshold_is_jaccard_point_seven():
    """Of ten words in all, eight common ones are a near-duplicate and six are not."""
    assert NEAR_DUPLICATE == 0.7
    assert near_duplicate_groups(["a b c d e f g h i", "a b c d e f g h j"]) == [[0, 1]]
    assert near_duplicate_groups(["a b c d e f g h", "a b c d e f i j"]) == [[0], [1]]
    assert near_duplicate_groups(["Again, again?", "again"]) == [[0, 1]]


def test_texts_of_several_blocks_are_linked(monkeypatch):
    """Across them, and in the same groups as at once."""
    texts = [" ".join(f"w{number + step}" for step in range(10)) for number in (0, 40, 1, 80, 2, 41, 3)]
    whole = near_duplicate_groups(texts)
    assert whole == [[0, 2, 4, 6], [1, 5], [3]]
    monkeypatch.setattr("asa.data.duplicates.ROWS", 2)
    assert near_duplicate_groups(texts) == whole


def test_equal_texts_are_one_group_even_without_a_word():
    assert near_duplicate_groups(["?!", "a", "?!", "!!"]) == [[0, 2], [1], [3]]


PLACES = {  # requests that differ in a place alone, of 8 to 26 characters
    "Chinese": ("{}明天的天气怎么样", ["北京", "上海", "哈尔滨", "呼和浩特"]),
    "Chinese, short": ("{}天气怎么样", ["北京", "石家庄", "哈尔滨"]),
    "Chinese, polite": ("请告诉我{}有多少人口", ["北京", "上海", "广州", "石家庄"]),
    "Chinese, rare characters": ("{}明天会下雨吗", ["北京", "㐀𠀀县", "上海"]),
    "Japanese": ("{}の天気を教えて", ["東京", "大阪", "名古屋", "鹿児島"]),
    "Japanese, loanwords": ("{}の天気は", ["ロンドン", "マドリード", "ストックホルム", "パリ"]),
    "Japanese, half width": ("{}の人口は何人ですか", ["ﾛﾝﾄﾞﾝ", "ﾏﾄﾞﾘｰﾄﾞ", "ﾍﾞﾙﾘﾝ"]),
    "Japanese, hiragana": ("{}のてんきをおしえて", ["とうきょう", "おおさか"]),
    "Thai": ("วันนี้อากาศที่{}เป็นอย่างไร", ["กรุงเทพ", "เชียงใหม่", "ภูเก็ต"]),
    "Lao": ("ມື້ນີ້ອາກາດຢູ່{}ເປັນແນວໃດ", ["ວຽງຈັນ", "ປາກເຊ"]),
    "Khmer": ("តើអាកាសធាតុនៅ{}ថ្ងៃនេះយ៉ាងដូចម្តេច", ["ភ្នំពេញ", "សៀមរាប"]),
    "Burmese": ("{}မြို့၏ယနေ့ရာသီဥတုကိုပြောပြပါ", ["ရန်ကုန်", "မန္တလေး"]),
    "Korean": ("{}의 날씨를 알려줘", ["서울", "부산", "제주도"]),
    "mixed": ("用Google搜索{}的天气", ["北京", "上海", "哈尔滨"]),
}


@pytest.mark.parametrize("language", PLACES)
def test_requests_that_differ_in_a_place_are_near_duplicates_in_any_script(language):
    """Without spaces a request would be one word, and a Korean word carries its particle."""
    frame, places = PLACES[language]
    texts = [frame.format(place) for place in places]
    assert near_duplicate_groups(["why", *texts]) == [[0], list(range(1, len(texts) + 1))]


@pytest.mark.parametrize(
    "texts",
    [
        ["请告诉我怎么做红烧肉", "请告诉我北京明天的天气", "请告诉我光速是多少", "请告诉我什么是机器学习"],
        ["什么是光合作用", "什么是通货膨胀", "什么是人工智能", "北京有什么好吃的", "感冒了应该吃什么药"],
        ["帮我写一首关于春天的诗", "帮我算一下这个月的开销", "帮我订一张去上海的机票", "帮我查一下明天的天气"],
        ["料理の作り方を教えてください", "東京の天気を教えてください", "健康的な朝食のレシピを教えてください"],
        ["光合成とは何ですか", "インフレとは何ですか", "量子力学とは何ですか", "民主主義とは何ですか"],
        ["どうすればよく眠れますか", "どうすれば英語が上達しますか", "どうすれば貯金できますか"],
        ["ช่วยบอกวิธีทำต้มยำกุ้งหน่อย", "ช่วยบอกวิธีเรียนภาษาอังกฤษหน่อย", "ช่วยบอกอากาศที่กรุงเทพวันนี้หน่อย"],
        ["날씨 알려줘", "환율 알려줘", "김치찌개 만드는 법을 알려줘", "영어 공부 방법을 알려줘", "양자역학이 뭐야?"],
        ["Translate 你好 into French", "Translate 谢谢 into French"],
    ],
)
def test_a_common_wording_alone_makes_no_near_duplicate(texts):
    assert len(near_duplicate_groups(texts)) == len(texts)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's a/b, É_1?", ["what", "s", "a", "b", "é_1"]),
        ("서울의 날씨", ["서울의", "날씨"]),
        ("用Python算2倍", ["用", "python", "算", "2", "倍"]),
        ("東京タワーの高さ", ["東", "京", "タワー", "の", "高", "さ"]),
        ("パリのてんき", ["パリ", "のて", "てん", "んき"]),
        ("ไทย a", ["ไท", "ทย", "a"]),
        ("?!", ["?!"]),
    ],
)
def test_words_of_a_text(text, words):
    assert text_words(text) == words


def test_the_project_s_requests_have_the_words_they_always_had():
    """The published splits rest on them: every run of word characters."""
    for file in ("requests.jsonl", "held_out.jsonl"):
        for request in load_requests(DATA / file):
            assert text_words(request.text) == re.findall(r"\w+", request.text.lower())
