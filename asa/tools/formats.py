"""Formats: what strings with a `format` look like, as regular expressions.

Those of JSON Schema in a plain form (RFC 3339 with years from 1000 to 2999, RFC 5322 without comments and quotes), and
two of this project's own: `arithmetic` and `language`. A grammar holds to them; `check_call` does not ask.
"""

_YEAR = r"[12]\d{3}"
_LEAP = r"[12]\d(?:0[48]|[2468][048]|[13579][26])|(?:12|16|20|24|28)00"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|(?:{_LEAP})-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_HOST = r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?){0,5}"

_NUMBER = r"\d{1,12}(?:\.\d{1,8})?"
_OPERATOR = r" ?(?:\*\*|[-+*/%]) ?"
_FUNCTION = r"(?:sqrt|abs|round|min|max|floor|ceil|log|exp|sin|cos|tan)?"


def _arithmetic(depth: int) -> str:
    """Sums with brackets in brackets, so many deep; a function may stand before them."""
    term = rf"-?(?:{_NUMBER}|pi)"
    if depth:
        inner = _arithmetic(depth - 1)
        term = rf"(?:{term}|-?{_FUNCTION}\({inner}(?:, ?{inner}){{0,4}}\))"
    return rf"{term}(?:{_OPERATOR}{term}){{0,11}}"


_LANGUAGES = """
Afrikaans Albanian Amharic Arabic Armenian Assamese Aymara Azerbaijani Bambara Basque Belarusian Bengali Bosnian
Breton Bulgarian Burmese Cantonese Catalan Cebuano Cherokee Chinese Cornish Corsican Croatian Czech Danish Dutch
Dzongkha English Esperanto Estonian Ewe Faroese Farsi Fijian Filipino Finnish Flemish French Frisian Galician Georgian
German Greek Greenlandic Guarani Gujarati Haitian Hausa Hawaiian Hebrew Hindi Hmong Hungarian Icelandic Igbo
Indonesian Irish Italian Japanese Javanese Kannada Kazakh Khmer Kinyarwanda Korean Kurdish Kyrgyz Lao Latin Latvian
Lingala Lithuanian Luxembourgish Macedonian Malagasy Malay Malayalam Maltese Mandarin Maori Marathi Mongolian Navajo
Nepali Norwegian Occitan Oromo Pashto Persian Polish Portuguese Punjabi Quechua Romanian Romansh Russian Samoan
Sanskrit Serbian Sesotho Shona Sicilian Sindhi Sinhala Slovak Slovenian Somali Spanish Sundanese Swahili Swedish
Tagalog Tahitian Tajik Tamil Tatar Telugu Thai Tibetan Tigrinya Tongan Tswana Turkish Turkmen Ukrainian Urdu Uyghur
Uzbek Vietnamese Welsh Wolof Xhosa Yiddish Yoruba Zulu""".split()
_VARIETY = (
    "(?:(?:Brazilian|European|Canadian|Mexican|Latin American|American|British|Swiss|Austrian"
    "|Simplified|Traditional|Modern|Ancient) )?"
)

FORMATS = {
    name: f"^(?:{pattern})$".replace(r"\d", "[0-9]")
    for name, pattern in {
        "date": _DATE,
        "time": _TIME,
        "date-time": f"{_DATE}T{_TIME}",
        "email": rf"[A-Za-z0-9_+-]{{1,30}}(?:\.[A-Za-z0-9_+-]{{1,30}}){{0,3}}@{_HOST}\.[a-z]{{2,10}}",
        "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
        "hostname": _HOST,
        "uri": r"[a-z][a-z0-9+.-]{1,15}://[A-Za-z0-9._~:/?#@!$&()*+,;=%-]{1,200}",
        "arithmetic": _arithmetic(2),
        "language": f"{_VARIETY}(?:Haitian Creole|Scottish Gaelic|{'|'.join(_LANGUAGES)})",
    }.items()
}
