"""Reading what somebody else may have made: run folders, models, sweeps, shards and boxes that were sent or downloaded.

Everything is read or refused, with :class:`~primia.untrusted.files.Unusable`, whose text is the reason in one line: no link is
followed, no device opened, and nothing is allocated before its size is known to be small enough. Callers add the path and what to do.
"""
