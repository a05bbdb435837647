-- Wake the nodes: a notification that is sent when the transaction commits.
--
-- It is left out while the queue of notifications is half full. A commit that notifies fails when the queue is full,
-- and every role may fill it: by NOTIFY, beside a session that listens and does not read. Nodes poll in any case.

CREATE FUNCTION notify_nodes(channel text, payload text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify(channel, payload);
    END IF;
END $$;
