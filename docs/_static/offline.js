// A page that was opened as a file may not read others: search finds them all the same, but cannot show their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
