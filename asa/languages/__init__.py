"""Languages: sets of texts, read letter by letter and written as grammars; no JSON, tools or tokens here."""
