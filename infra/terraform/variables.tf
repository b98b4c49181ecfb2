variable "name" {
  description = "What everything is called, and begins with."
  type        = string
  default     = "mayfly"

  validation {
    condition     = can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", var.name)) && length(var.name) >= 3 && length(var.name) <= 21
    error_message = "name has 3 to 21 lower-case letters and digits, with single hyphens between, and begins with a letter: load balancers and caches take no other."
  }
}

variable "tags" {
  description = "Tags of everything, beside those of the provider's default_tags."
  type        = map(string)
  default     = {}
}

variable "deletion_protection" {
  description = "Whether what holds data is kept from being destroyed: buckets that are not empty, the load balancer, the cache's last snapshot."
  type        = bool
  default     = true
}

# --- the network

variable "vpc_cidr" {
  description = "The addresses of the VPC: cut into 16 parts, of which each zone has three."
  type        = string
  default     = "10.42.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr)) && try(tonumber(split("/", var.vpc_cidr)[1]) <= 22, false)
    error_message = "vpc_cidr is IPv4, and at least a /22: subnets of less than 64 addresses are too few for hosts, brokers and endpoints."
  }
}

variable "zones" {
  description = "Availability zones: 3 to outlive one that goes, 2 for less money."
  type        = number
  default     = 3

  validation {
    condition     = contains([2, 3], var.zones)
    error_message = "zones is 2 or 3."
  }
}

variable "single_nat_gateway" {
  description = "One NAT gateway for all zones, in place of one each: cheaper, and gone with its zone."
  type        = bool
  default     = false
}

variable "interface_endpoints" {
  description = "Whether AWS's own services are reached inside the VPC, in place of by NAT."
  type        = bool
  default     = true
}

variable "egress_ports" {
  description = "TCP ports of public addresses that dispatchers' hosts, and so callbacks and functions with egress, may connect to."
  type        = set(number)
  default     = [443]

  validation {
    condition     = contains(var.egress_ports, 443) && alltrue([for port in var.egress_ports : port >= 1 && port <= 65535])
    error_message = "egress_ports are ports, and 443 is one of them: without it hosts reach neither S3 nor ECR."
  }
}

# --- the front door

variable "domain_name" {
  description = "The gateway's host name: with zone_id, its certificate and its record are made."
  type        = string
  default     = null

  validation {
    condition     = var.domain_name == null || can(regex("^([a-z0-9]([a-z0-9-]*[a-z0-9])?\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "domain_name is a host name in lower case, such as mayfly.example.com."
  }
}

variable "zone_id" {
  description = "The Route 53 zone that domain_name is in."
  type        = string
  default     = null
}

variable "certificate_arn" {
  description = "A certificate of ACM that is there already, in place of one that is made for domain_name."
  type        = string
  default     = null

  validation {
    condition     = var.certificate_arn == null || can(regex("^arn:aws[a-z-]*:acm:", var.certificate_arn))
    error_message = "certificate_arn is the ARN of a certificate of ACM."
  }
}

variable "ingress_cidrs" {
  description = "Who may reach the load balancer, as IPv4 ranges; empty: everybody where it has a certificate, and the VPC where it has none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.ingress_cidrs : can(cidrnetmask(cidr))])
    error_message = "ingress_cidrs are IPv4 ranges, such as 203.0.113.0/24."
  }
}

# --- the parts

variable "kafka_version" {
  description = "Of MSK. Mayfly wants consumer groups of Kafka's own protocol (KIP-848): 4.0 or newer."
  type        = string
  default     = "4.1.x.kraft"

  validation {
    condition     = can(regex("^([4-9]|[1-9][0-9])\\.", var.kafka_version))
    error_message = "kafka_version is 4.0 or newer: dispatchers join their group by KIP-848."
  }
}

variable "broker_instance_type" {
  description = "Of each broker; there is one in each zone."
  type        = string
  default     = "kafka.m7g.large"

  validation {
    condition     = startswith(var.broker_instance_type, "kafka.")
    error_message = "broker_instance_type begins with kafka., such as kafka.m7g.large."
  }
}

variable "broker_volume_gib" {
  description = "Of each broker at first, GiB; it grows by itself to broker_volume_max_gib. The topics keep everything."
  type        = number
  default     = 100

  validation {
    condition     = var.broker_volume_gib >= 1 && var.broker_volume_gib <= 16384
    error_message = "broker_volume_gib is 1 to 16384."
  }
}

variable "broker_volume_max_gib" {
  description = "What a broker's volume grows to, GiB."
  type        = number
  default     = 1000
}

variable "partitions" {
  description = "Partitions of each of the queue's topics: bounds its dispatchers, and never changes while it lives."
  type        = number
  default     = 24

  validation {
    condition     = var.partitions >= 1 && var.partitions <= 1000
    error_message = "partitions is 1 to 1000."
  }
}

variable "queue" {
  description = "The queue that the dispatchers serve."
  type        = string
  default     = "default"

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{0,62}$", var.queue))
    error_message = "queue has up to 63 lower-case letters, digits and hyphens."
  }
}

variable "cache_node_type" {
  description = "Of each node of the cache."
  type        = string
  default     = "cache.m7g.large"

  validation {
    condition     = startswith(var.cache_node_type, "cache.")
    error_message = "cache_node_type begins with cache., such as cache.m7g.large."
  }
}

variable "cache_replicas" {
  description = "Copies of the cache beside the first. What it holds can be written again from the log: they are for being there, not for keeping."
  type        = number
  default     = 1

  validation {
    condition     = var.cache_replicas >= 0 && var.cache_replicas <= 5
    error_message = "cache_replicas is 0 to 5."
  }
}

variable "retention_days" {
  description = "How long a task's status, result, log and payload are kept after its end; 0 keeps them for ever."
  type        = number
  default     = 7

  validation {
    condition     = var.retention_days >= 0
    error_message = "retention_days is not negative."
  }
}

variable "dead_letter_retention_days" {
  description = "The same for dead letters."
  type        = number
  default     = 30

  validation {
    condition     = var.dead_letter_retention_days >= 0
    error_message = "dead_letter_retention_days is not negative."
  }
}

# --- the services

variable "image_tag" {
  description = "The tag of Mayfly's image in the repository that is made for it. Tags never change: a new version is a new tag."
  type        = string
  default     = "0.1.0"

  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.image_tag)) && var.image_tag != "latest"
    error_message = "image_tag is a tag, and not latest: nobody could say what runs."
  }
}

variable "functions_tag" {
  description = "The tag, in the same repository, of an image that is Mayfly's with your functions in /functions: with it there is a deployer, to be run once for each version."
  type        = string
  default     = null

  validation {
    condition     = var.functions_tag == null || try(can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.functions_tag)) && var.functions_tag != "latest", false)
    error_message = "functions_tag is a tag, and not latest: nobody could say what was deployed."
  }
}

variable "gateway" {
  description = "Gateways: CPU units (1024 are a core) and MiB of each, and how many there are at least and at most."
  type        = object({ cpu = number, memory = number, min = number, max = number })
  default     = { cpu = 1024, memory = 2048, min = 3, max = 12 }

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.gateway.cpu)
    error_message = "gateway.cpu is what Fargate has: 256, 512, 1024, 2048, 4096, 8192 or 16384."
  }

  validation {
    condition     = var.gateway.memory >= 2 * var.gateway.cpu && var.gateway.memory <= 8 * var.gateway.cpu
    error_message = "gateway.memory is two to eight times gateway.cpu: Fargate has no other sizes."
  }

  validation {
    condition     = var.gateway.min >= 1 && var.gateway.max >= var.gateway.min
    error_message = "gateway.min is 1 or more, and gateway.max no less."
  }
}

variable "dispatcher" {
  description = "Dispatchers, each on a host of its own: the host's instance type and its disk in GiB, tasks at once, how many there are at least and at most, and for how many waiting tasks there should be one."
  type = object({
    instance_type = string
    disk_gib      = number
    slots         = number
    min           = number
    max           = number
    waiting_tasks = number
  })
  default = { instance_type = "c7i.2xlarge", disk_gib = 100, slots = 32, min = 3, max = 12, waiting_tasks = 500 }

  validation {
    condition     = var.dispatcher.min >= 1 && var.dispatcher.max >= var.dispatcher.min
    error_message = "dispatcher.min is 1 or more, for somebody has to see that there is work, and dispatcher.max no less."
  }

  validation {
    condition     = var.dispatcher.slots >= 1 && var.dispatcher.slots <= 1000
    error_message = "dispatcher.slots is 1 to 1000."
  }

  validation {
    condition     = var.dispatcher.disk_gib >= 30
    error_message = "dispatcher.disk_gib is 30 or more: the hosts' own system takes that."
  }

  validation {
    condition     = var.dispatcher.waiting_tasks >= 1
    error_message = "dispatcher.waiting_tasks is 1 or more."
  }

  validation {
    condition     = !can(regex("^[a-z0-9]+g[a-z]*\\.", var.dispatcher.instance_type))
    error_message = "dispatcher.instance_type is of x86-64: the image, and functions' images, are built for it."
  }
}

variable "host_image_id" {
  description = "The hosts' AMI; unset: Amazon's newest for ECS. Set it where hosts may change only when you say so."
  type        = string
  default     = null
}

variable "grace_seconds" {
  description = "How long running tasks may go on on a host that is to go; then others run them again."
  type        = number
  default     = 90

  validation {
    condition     = var.grace_seconds >= 0 && var.grace_seconds <= 3600
    error_message = "grace_seconds is 0 to 3600: a deployment waits for it, on each host."
  }
}

variable "egress_allow" {
  description = "host:port pairs that functions with egress may reach although they are private."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for pair in var.egress_allow : can(regex("^[^:,]+:[0-9]+$", pair))])
    error_message = "egress_allow are host:port pairs."
  }
}

variable "functions_on_fargate" {
  description = "Whether functions may ask for runtime = \"ecs\": each of their tasks is then a task of ECS on Fargate. It costs nothing until one does."
  type        = bool
  default     = false
}

# --- watching

variable "log_retention_days" {
  description = "How long CloudWatch keeps the logs."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days is one of those that CloudWatch has: 7, 14, 30, 90, 365, ..."
  }
}

variable "alarm_email" {
  description = "Who is told of alarms: AWS asks there first whether that is wanted."
  type        = string
  default     = null
}
