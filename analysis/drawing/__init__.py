"""How figures are drawn: panels on a sheet, their places, colours and letters."""
