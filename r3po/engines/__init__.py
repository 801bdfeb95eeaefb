"""Who carries the workers: this process, or Ray's actors.

Owns the pool's protocol, the processes of workers (who runs, what each is doing, ending one, why it died) and the only
import of Ray. It must not know what a call means, which file comes next, or what becomes of an answer.
"""
