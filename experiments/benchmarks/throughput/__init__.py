"""How many workers one search can keep busy; see the module `__main__`."""
