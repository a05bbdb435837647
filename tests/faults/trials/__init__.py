"""Trials: the whole service under faults, judged by what its clients wrote down.

A trial runs nodes (``tocsin serve``) on PostgreSQL servers that fail, behind proxies and poolers that fail, while
sources post and recipients read. Then it compares three things that must agree: what each client wrote down, the log,
and the ledger.

    records      what is written down: changes and their answers, connections and what came over them
    sources      clients that post, alone, in batches, by dedup key, as Alertmanager, and comment
    recipients   clients of the stream: WebSocket, server-sent events, long poll; they acknowledge, leave and return
    nodes        processes of the service
    world        the nodes, servers, replica, pooler and proxies of one trial, and the lines of history that were lost
    faults       what may happen to them
    judge        the invariants, decided from the records
    trial        a trial from its seed, and a command that runs many

Nothing here imports the service: a defect in code that both share would be judged by itself. A test holds this.
"""
