"""Gives back what it got: the smallest function there is."""


def handler(event, context):
    return event
