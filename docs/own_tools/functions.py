"""What the three tools do; each is called with its arguments by name."""

import datetime as dt

EVENTS = {"2026-12-01": "dentist at nine", "2026-12-24": "dinner with Ana"}
STOCK = {"bolts": 1200, "nuts": 950, "washers": 40}


def weather(place: str) -> str:
    """What a weather service would say."""
    return f"{place}: light rain, 4 degrees"


def calendar(day: str = "") -> str:
    """The appointments on a day, or today's."""
    return EVENTS.get(day or dt.date.today().isoformat(), "no appointments")


def database(item: str) -> str:
    """How many pieces are in stock."""
    return f"{STOCK.get(item.lower(), 0)} {item}"


functions = [weather, calendar, database]
