"""A search: settings that Optuna proposes, each an ordinary trial."""

from pwmray.search.specification import Search, search_parser

__all__ = ["Search", "search_parser"]
