"""Programs that hosts run: servers, task queues, forks; and what their tests share."""
